"use strict";
(() => {
  const all = (query, from = document) => [...from.querySelectorAll(query)];

  // Words at the pointer, for whatever has a data-tip.
  const tip = document.getElementById("tip");
  const show = (event) => {
    const mark = event.target.closest("[data-tip]");
    tip.hidden = !mark;
    if (!mark) return;
    tip.textContent = mark.dataset.tip;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 12, innerWidth - box.width - 4))}px`;
    tip.style.top = `${Math.max(4, event.clientY - box.height - 12)}px`;
  };
  document.addEventListener("pointermove", show);
  document.addEventListener("pointerdown", show);

  // Samples seen or epochs.
  all("input[name=axis]").forEach((input) =>
    input.addEventListener("change", () =>
      all("[data-axis]").forEach((box) => { box.hidden = box.dataset.axis !== input.value; })));

  // Tables: a click on a head sorts, another turns the order round.
  const value = (row, at, kind) => {
    const cell = row.cells[at];
    const text = cell.dataset.value ?? cell.textContent.trim();
    if (kind !== "number") return text.toLowerCase();
    const number = parseFloat(text.replace(/,/g, ""));
    return Number.isNaN(number) ? -Infinity : number;
  };
  all("table.sortable").forEach((table) => {
    const heads = all("thead th", table);
    heads.forEach((head, at) => {
      const kind = head.dataset.kind;
      if (!kind) return;
      head.querySelector("button").addEventListener("click", () => {
        const down = head.hasAttribute("aria-sort")
          ? head.getAttribute("aria-sort") === "ascending" : kind === "number";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const body = table.tBodies[0];
        const rows = [...body.rows].map((row) => [value(row, at, kind), row]);
        rows.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1));
        body.append(...rows.map(([, row]) => row));
      });
    });
  });

  // Rows that hold what is typed.
  all("input[type=search]").forEach((input) =>
    input.addEventListener("input", () => {
      const wanted = input.value.trim().toLowerCase();
      all("tbody tr", document.getElementById(input.dataset.table)).forEach((row) => {
        row.hidden = !row.textContent.toLowerCase().includes(wanted);
      });
    }));

  // The confusion matrix.
  const matrix = document.getElementById("matrix");
  if (matrix) {
    const { names, rows } = JSON.parse(document.getElementById("matrix-data").textContent);
    const room = Number(matrix.dataset.room), cell = Number(matrix.dataset.cell);
    const cross = matrix.querySelector(".cross"), said = document.getElementById("cell");
    const far = room + names.length * cell;
    let at = [0, 0];
    const look = (row, column) => {
      if (row < 0 || column < 0 || row >= names.length || column >= names.length) return;
      at = [row, column];
      const x = room + (column + 0.5) * cell, y = room + (row + 0.5) * cell;
      cross.setAttribute("d", `M${room} ${y}H${far}M${x} ${room}V${far}`
        + `M${x - cell / 2} ${y - cell / 2}h${cell}v${cell}h${-cell}z`);
      const many = rows[row][column], total = rows[row].reduce((sum, n) => sum + n, 0);
      const share = total ? ` (${Math.round(100 * many / total)} %)` : "";
      said.textContent = row === column
        ? `${names[row]}: ${many} of ${total} right${share}`
        : `${names[row]} taken for ${names[column]}: ${many} of ${total}${share}`;
    };
    const pointed = (event) => {
      const point = new DOMPoint(event.clientX, event.clientY)
        .matrixTransform(matrix.getScreenCTM().inverse());
      look(Math.floor((point.y - room) / cell), Math.floor((point.x - room) / cell));
    };
    matrix.addEventListener("pointermove", pointed);
    matrix.addEventListener("pointerdown", pointed);
    matrix.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      look(at[0] + step[0], at[1] + step[1]);
    });
    const zoom = document.getElementById("zoom");
    if (zoom) zoom.addEventListener("click", () => {
      const large = matrix.parentElement.classList.toggle("zoomed");
      zoom.setAttribute("aria-pressed", String(large));
    });
  }

  // On paper everything is open.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = all("details:not([open])");
    opened.forEach((part) => { part.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((part) => { part.open = false; }));
})();

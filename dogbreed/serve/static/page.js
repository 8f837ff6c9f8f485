"use strict";

const AT_ONCE = 4; // pictures that are on their way to the server together
const KINDS = ["image/jpeg", "image/png", "image/webp"];
const find = (name) => document.getElementById(name);
const drop = find("drop"), results = find("results"), locked = find("locked");
const percent = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 1 });
let key = sessionStorage.getItem("key") || "";
let refused = []; // pictures that wait for a key

function say(text, problem = false) {
  find("status").textContent = text;
  find("status").classList.toggle("problem", problem);
}

const shown = (breed) => {
  const words = breed.replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
};

function chance(probability) {
  if (probability > 0.9995) return "over 99.9%";
  return probability < 0.001 ? "under 0.1%" : percent.format(probability);
}

function card(file) {
  const made = find("card").content.firstElementChild.cloneNode(true);
  const photo = made.querySelector(".photo");
  photo.src = URL.createObjectURL(file);
  photo.alt = `Your photograph ${file.name}`;
  photo.addEventListener("error", () => made.classList.add("blind"));
  made.querySelector(".name").textContent = file.name;
  made.querySelector("h2").textContent = "Looking…";
  made.classList.add("waiting");
  made.setAttribute("aria-busy", "true");
  return made;
}

function finished(made) {
  made.classList.remove("waiting");
  made.removeAttribute("aria-busy");
}

function wrong(made, title, reason) {
  finished(made);
  made.classList.add("problem");
  made.querySelector("h2").textContent = title;
  made.querySelector(".sure").textContent = reason;
}

function sure(entry) {
  if (entry.is_dog === false) return "If it is a dog after all, these are nearest:";
  if (entry.probability >= 0.8) return `I am quite sure: ${chance(entry.probability)}.`;
  if (entry.probability >= 0.4) return `Likely, at ${chance(entry.probability)}, but look below.`;
  return `A guess: ${chance(entry.probability)}. It may be a mix, or a breed that I don't know.`;
}

function answer(made, entry) {
  finished(made);
  const title = entry.is_dog === false ? "That's no dog that I know" : shown(entry.breed);
  made.querySelector("h2").textContent = title;
  made.querySelector(".sure").textContent = sure(entry);
  const list = made.querySelector(".best");
  list.setAttribute("aria-label", "The five most likely breeds");
  for (const { breed, probability } of entry.top5) {
    const row = document.createElement("li");
    const name = document.createElement("span");
    name.textContent = shown(breed);
    const share = document.createElement("span");
    share.className = "share";
    share.textContent = chance(probability);
    const bar = document.createElement("progress");
    bar.max = 1;
    bar.value = probability;
    bar.setAttribute("aria-hidden", "true"); // the number says it
    row.append(name, share, bar);
    list.append(row);
  }
  if (entry.heat) heat(made, entry);
}

function heat(made, entry) {
  const map = made.querySelector(".heat"), photo = made.querySelector(".photo");
  const toggle = made.querySelector(".toggle");
  map.src = `data:image/png;base64,${entry.heat}`;
  map.alt = `The part of the photograph that was looked at, bright where it most looks like ${shown(entry.breed)}`;
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    const on = toggle.getAttribute("aria-pressed") !== "true";
    toggle.setAttribute("aria-pressed", String(on));
    map.hidden = !on;
    photo.hidden = on;
  });
}

async function ask(file, explain) {
  const form = new FormData();
  form.append("imagefiles", file, file.name || "pasted.png");
  const headers = key ? { "X-API-Key": key } : {};
  const response = await fetch(`/predict${explain ? "?explain=true" : ""}`, {
    method: "POST", body: form, headers,
  });
  if (response.ok) return (await response.json())[0];
  const said = await response.json().catch(() => ({}));
  const problem = new Error(said.detail || `The server answered ${response.status}.`);
  problem.status = response.status;
  throw problem;
}

async function patiently(file) {
  let explain = true;
  for (let tries = 1; ; tries += 1) {
    try {
      return await ask(file, explain);
    } catch (problem) {
      if (problem.status === 400 && explain) explain = false; // a model without heat maps
      else if (problem.status !== 503 || tries >= 8) throw problem;
      else await new Promise((done) => setTimeout(done, 500 * tries));
    }
  }
}

async function show(file, made) {
  try {
    const entry = await patiently(file);
    if (entry.status === "success") answer(made, entry);
    else wrong(made, "I can't read this picture", `${entry.message}.`);
  } catch (problem) {
    if (problem.status === 401) {
      refused.push(file);
      made.remove();
      return;
    }
    const lost = problem instanceof TypeError;
    wrong(made, "No answer", lost ? "The server can't be reached. Are you online?" : problem.message);
  }
}

async function take(files) {
  const pictures = [...files].filter((file) => file.size > 0);
  if (!pictures.length) {
    say("There is no picture in that. JPEG, PNG and WebP are read.", true);
    return;
  }
  say(pictures.length === 1 ? "Looking at your photograph…" : `Looking at ${pictures.length} photographs…`);
  const cards = pictures.map(card);
  results.prepend(...cards);
  const waiting = pictures.map((file, k) => [file, cards[k]]);
  const one = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) await show(...next);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, one));
  if (refused.length) {
    say(key ? "That key is not valid." : "", Boolean(key));
    locked.hidden = false;
    find("key").focus();
    return;
  }
  const first = cards[0];
  const bad = cards.filter((made) => made.classList.contains("problem")).length;
  const title = `${first.querySelector("h2").textContent}. ${first.querySelector(".sure").textContent}`;
  say(pictures.length === 1 ? title : `${pictures.length} photographs looked at${bad ? `, ${bad} without an answer` : ""}.`, bad === pictures.length);
  first.focus();
}

locked.addEventListener("submit", (event) => {
  event.preventDefault();
  key = find("key").value.trim();
  sessionStorage.setItem("key", key);
  locked.hidden = true;
  const again = refused;
  refused = [];
  take(again);
});

for (const name of ["files", "camera"]) {
  find(name).addEventListener("change", (event) => {
    take(event.target.files);
    event.target.value = ""; // so that the same one can be chosen again
  });
}

for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files);
  });
}

document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files].filter((file) => KINDS.includes(file.type));
  if (files.length) take(files);
});

if (!matchMedia("(pointer: coarse)").matches) {
  find("camera").hidden = true;
  find("camera").nextElementSibling.hidden = true;
} else {
  find("hint").textContent = "Take a photograph, or choose some.";
}

"""The earlier project's server, written anew to be measured against: `python -m … PORT`.

FastAPI and uvicorn; a picture goes through a temporary file, is squeezed to 200x200 and answered by
torch, eager, float32, one after another.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import uvicorn
from fastapi import FastAPI, UploadFile
from PIL import Image

app = FastAPI()
network = timm.create_model("mobilenetv3_large_100", pretrained=False, num_classes=120).eval()


@app.get("/ready")
def ready() -> str:
    """Whether it is there."""
    return "ready"


@app.post("/predict")
async def predict(imagefiles: list[UploadFile]) -> list[dict[str, Any]]:
    """Answer each file."""
    answers = []
    for file in imagefiles:
        with tempfile.NamedTemporaryFile(suffix=Path(file.filename or "").suffix) as copy:
            shutil.copyfileobj(file.file, copy)
            copy.flush()
            picture = Image.open(copy.name).convert("RGB").resize((200, 200))
        batch = torch.from_numpy(np.array(picture, np.float32)).permute(2, 0, 1)[None]
        with torch.no_grad():
            shares = network(batch).softmax(1)[0]
        best = int(shares.argmax())
        answers.append(
            {
                "filename": file.filename,
                "probability": float(shares[best]),
                "breed_idx": best,
                "breed": str(best),
                "status": "success",
                "message": "Cute puppy detected",
            }
        )
    return answers


if __name__ == "__main__":
    torch.set_num_threads(1)
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")

"""Is imported in place of the autoencoder.py above if a file of this folder is run by its path."""

import sys
from pathlib import Path

file = Path(sys.argv[0])
root = Path(__file__).resolve().parents[1]
print(f"{file}: error: run python -m beyond.{file.stem}, in {root}", file=sys.stderr)
sys.exit(2)

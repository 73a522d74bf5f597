"""`python -m gradcam.cli`."""

from gradcam.cli import main

main()

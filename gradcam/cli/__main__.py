"""`python -m gradcam.cli`."""

from gradcam.cli import main

if __name__ == "__main__":
    main()

"""What people see: photographs read, maps coloured, figures and charts drawn.

Each module takes arrays, names and numbers, and knows nothing of models or explanations:

    images.py   a photograph file -> RGB array
    colours.py  values in [0, 1] -> RGB: where a map's colour is chosen
    overlay.py  a map over a photograph -> Pillow image
    figure.py   maps, titles, photographs -> matplotlib figure
    charts.py   rows of intervals -> matplotlib figure
    extras.py   imports matplotlib, Pillow and SciPy when a picture is asked for
"""

"""What people see: photographs read, maps coloured, figures and charts drawn.

Each module takes arrays, names and numbers, and knows nothing of models or explanations:

    images.py   a photograph file -> RGB array
    colours.py  values in [0, 1] -> RGB: where a map's colour is chosen
    shown.py    a map with its name, score and scale, and what it says in words
    overlay.py  a map over a photograph -> Pillow image
    web.py      a map over a photograph -> images for a page
    panels.py   what a figure is made of, and how it is to look
    figure.py   rows of maps with titles, bars, lines and boxes -> matplotlib figure
    bars.py     the bar with a map's colours and values
    curves.py, volumes.py   maps over one axis, and over three
    words.py    a map over words -> text, HTML
    animation.py, nifti.py   a map over three axes -> a film, a NIfTI file
    notebook.py what results show of themselves in a notebook -> HTML
    charts.py   rows of intervals -> matplotlib figure
    extras.py   imports matplotlib, Pillow and SciPy when a picture is asked for
"""

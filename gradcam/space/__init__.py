"""Where is space? Which axes of a layer's output run over samples, channels and positions, and
which layer to explain.

A layer's type may say it for sure. Where types and shapes leave a doubt the network is asked: parts
of the input are disturbed, and the elements of the layer that answer lie where the disturbance was.

patterns    which parts of the input are disturbed, and how
readings    every way to read an array of that shape, and how well each agrees with what was seen
evidence    the passes through the model
axes        the answer for one layer: its layout, how it was told, how sure
choice      the layers of a model, and the one that is explained where none is named
"""

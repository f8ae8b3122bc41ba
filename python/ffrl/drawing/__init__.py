"""Pictures by Pillow: strips and animations of sequences, line charts, dot plots, heat maps. Their font has ASCII
only.
"""

from ffrl.drawing.curves import curves
from ffrl.drawing.dot_plot import Dot, dot_plot
from ffrl.drawing.heat_map import heat_map
from ffrl.drawing.picture import save_gif, save_png
from ffrl.drawing.sequences import animation, save_sequences, strip

__all__ = ["Dot", "animation", "curves", "dot_plot", "heat_map", "save_gif", "save_png", "save_sequences", "strip"]

"""What every room needs: where to compute, files that survive, a progress line, pictures.

Source: nothing here is of this field; the libraries are PyTorch, matplotlib and Python's own.
"""

"""Drawing: frames in, matplotlib figures out; everything that is computed is in the frames."""

"""Where pixels lie: the two grids, tiles, 360° pictures, resizing."""

"""GeoTIFF by rasterio (extra `geo`)."""

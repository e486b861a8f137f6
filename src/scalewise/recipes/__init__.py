"""One value per way a model was made."""

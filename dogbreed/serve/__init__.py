"""`dogbreed serve`: the model package behind LitServe. See `server` for how it is put together."""

"""How the parts of a layer are put together: the only room that knows every other one below it."""

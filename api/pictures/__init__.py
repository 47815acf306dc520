"""Images that clients send: decoded in separate processes, with bounds on memory and time, and fairly between
tenants.

`header` and `cover` say what an image is, and what decoding it costs. `prepare` and `colour` make
the new file, in the child process (`__main__`). `turns` decides whose image is next. `decoders` runs the
processes from the API's event loop. Only the child loads Pillow.
"""

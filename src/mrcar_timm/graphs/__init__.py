"""Networks as ONNX graphs: the network, what finds faces, 8 bits, and a cache of them."""

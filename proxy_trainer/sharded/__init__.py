"""One model over many devices: FSDP2, started by torchrun, in the loop that trains arrays too."""

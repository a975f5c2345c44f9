"""The ablations of the AvatarForcing paper, tables 3 to 6, as experiments that anyone can run."""

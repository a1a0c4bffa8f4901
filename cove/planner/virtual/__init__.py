"""What virtual machines need besides: the emulator, its jail, and what happens inside the guest."""

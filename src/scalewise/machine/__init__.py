"""What this computer is good at: device, number type, memory."""

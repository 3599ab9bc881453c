"""How long networks and committees take: measured warm, kept by the hardware they were measured on."""

"""How many labels are needed, and whether pre-training helps: methods by budgets of labels, draws and seeds."""

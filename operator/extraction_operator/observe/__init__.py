"""What operators of the operator see: metrics, health, logs.

Only the wiring imports it: the other packages name what they tell in protocols of their own.
"""

"""Hands a plan to the C program over the channel of a monitor, and turns its reports into
errors. It decides nothing about isolation.
"""

"""What has to be done to build a target: stages and steps as data, with all variables known. Pure.

``plan.plan_build`` is the door, ``plan.check_build`` the one for ``--check``; what base images say
comes through a look-up that is passed in.
"""

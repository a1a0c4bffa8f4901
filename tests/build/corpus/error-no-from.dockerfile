# nothing
ARG A

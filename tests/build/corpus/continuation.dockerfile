FROM alpine
RUN first \
    # a comment in between
  && second \

  && third \   
&& fourth \\
RUN fifth \

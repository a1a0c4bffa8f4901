FROM alpine
RUN echo a\b \\ 'c\
d'
ENV A=a\ b B='\' C="\"" D=x\

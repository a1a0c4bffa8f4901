FROM alpine
RUN ["a", "b c", "\u00e9\n"]
RUN [ "a", 'b' ]
RUN ["a"] && echo
CMD [ ]
CMD
ENTRYPOINT ["x"]
ENTRYPOINT [x]
SHELL ["/bin/bash", "-c"]
VOLUME ["/a b", "/c"]
VOLUME /a /b
COPY ["a b", "/c d/"]
ADD [ "a", "b" ,"/c" ]
COPY [a] /b
HEALTHCHECK CMD ["a", "b"]

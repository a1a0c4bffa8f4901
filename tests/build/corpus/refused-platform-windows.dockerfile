FROM --platform=windows/amd64 alpine

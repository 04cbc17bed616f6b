# A small image of the one binary: built in a Rust image, run in a slim one.
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --profile dist --locked -p longshore

FROM debian:bookworm-slim
# The authorities that TLS connections trust; the slim image has none.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /src/target/dist/longshore /usr/local/bin/longshore
ENTRYPOINT ["longshore"]

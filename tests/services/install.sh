#!/usr/bin/env bash
# Installs the counterparts of the site contract tests: moto, the emulator of
# Google Cloud Storage and rclone into .venv, Azurite beside this file.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec make .venv/ready node-ready

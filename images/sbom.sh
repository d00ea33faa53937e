#!/usr/bin/env bash
# images/sbom.sh PYTHON FOLDER: what each image's build stage would install, resolved by pip and listed as CycloneDX.
# From an image itself: run cyclonedx-py in it, or your scanner.
set -euo pipefail
python=$1 out=$2
cd "$(dirname "$0")/.."
mkdir -p "$out" build
if [ ! -x build/cyclonedx/bin/cyclonedx-py ]; then
  "$python" -m venv build/cyclonedx
  build/cyclonedx/bin/pip install -q cyclonedx-bom
fi
for environment in train:.venv guard:.venv-guard; do
  build/cyclonedx/bin/cyclonedx-py environment --output-reproducible -o "$out/${environment%%:*}.cdx.json" "${environment##*:}/bin/python"
  echo "$out/${environment%%:*}.cdx.json"
done
for image in serve launch; do
  environment=build/sbom-$image
  if [ ! -x "$environment/bin/python" ]; then
    "$python" -m venv "$environment"
    "$environment/bin/pip" install -q -c constraints.txt -r "images/$image.txt"
  fi
  build/cyclonedx/bin/cyclonedx-py environment --output-reproducible -o "$out/$image.cdx.json" "$environment/bin/python"
  echo "$out/$image.cdx.json"
done

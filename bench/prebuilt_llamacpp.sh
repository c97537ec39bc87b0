#!/bin/sh
# Makes the environment FOLDER with llama.cpp as node-llama-cpp ships it: compiled for every
# instruction set of x86-64, of which it takes the best at run time. Nothing is compiled here. The
# Python files that call it are those of llama-cpp-python.
#
#     bench/prebuilt_llamacpp.sh PYTHON FOLDER
set -e
python=$1 folder=$2
command -v "$python" >/dev/null && test -n "$folder" || {
    echo "usage: bench/prebuilt_llamacpp.sh PYTHON FOLDER, where PYTHON is a program" >&2; exit 2; }
test ! -e "$folder" || test -f "$folder/pyvenv.cfg" || {
    echo "$folder is there and no environment of Python; give another folder" >&2; exit 2; }
test -d "$folder/llama.cpp" && exit 0
command -v npm >/dev/null || { echo "no npm here, so llama.cpp is measured as compiled alone"; exit 0; }
rm -rf "$folder" && "$python" -m venv "$folder"
pip="$folder/bin/python -m pip --quiet --disable-pip-version-check"
$pip install numpy diskcache jinja2 typing-extensions
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
$pip download --no-deps --no-binary :all: --dest "$work" llama-cpp-python==0.3.36
packages=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
tar xzf "$work"/llama_cpp_python-*.tar.gz -C "$work"
cp -r "$work"/llama_cpp_python-*/llama_cpp "$packages"
(cd "$work" && npm pack --silent @node-llama-cpp/linux-x64@3.22.1 >/dev/null)
tar xzf "$work"/node-llama-cpp-*.tgz -C "$work"
for library in llama ggml; do  # the names that llama-cpp-python looks for
    (cd "$work/package/bins/linux-x64" && ln -s lib$library.v*.so lib$library.so)
done
mv "$work/package/bins/linux-x64" "$folder/llama.cpp"

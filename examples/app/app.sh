#!/bin/sh
# An app that wants a file which kie.ai generated. It knows where kielink is, and no key.
set -eu
: "${KIELINK_URL:?the address of kielink, e.g. http://kielink:8080}"
if [ -z "${SOURCE_URL:-}" ]; then
    echo "Set SOURCE_URL to the address of a file that kie.ai generated for you."
    exit 2
fi

# Asks kielink for a link and prints what curl's format says of the answer.
ask() {
    curl -sS --get --data-urlencode "url=$SOURCE_URL" "$KIELINK_URL/v1/redirect" -o answer -w "$1"
}

echo "I need the file   $SOURCE_URL"
echo "I ask             $KIELINK_URL, without a key"
answer=$(ask '%{redirect_url}\n%header{cache-status}')
link=${answer%%
*}
if [ -z "$link" ]; then
    echo "There is no link: $(cat answer)"
    exit 1
fi
# Whoever has the signature has the file: it stays out of logs.
echo "I get a link      ${link%%\?*}?(signature)"
echo "which comes from  ${answer#*
}"
echo "I ask again       $(ask '%{time_total} s, %header{cache-status}')"
file=${SOURCE_URL##*/}
file=${file%%\?*}
echo "I download it     $(curl -sSf "$link" -o "$file" -w '%{http_code}, %{content_type}, %{size_download} bytes')"
echo "Done              $PWD/$file, sha256 $(sha256sum "$file" | cut -c1-16)"

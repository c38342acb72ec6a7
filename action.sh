# What action.yml runs: the program $CMKEEPER judges the key policies $FILES. People read
# what it says in the log, code scanning in $SARIF_FILE. Exit codes are those of
# "cmkeeper policy check".
set -eu

add() { # the flag $1 for each part of $2
  for part in $(echo "$2" | tr ',' ' '); do
    flags="$flags $1 $part"
  done
}
flags="--fail-on $FAIL_ON"
add --account "$ACCOUNT"
add --trusted-account "$TRUSTED_ACCOUNTS"
add --trusted-org "$TRUSTED_ORGS"

# A line is one path or pattern, and may have blanks. The flags have neither.
IFS='
'
set -- $FILES
[ $# -gt 0 ] || { echo "action.sh: no files are named" >&2; exit 2; }
IFS=' '
set -f

code=0
"$CMKEEPER" policy check $flags -- "$@" || code=$?
"$CMKEEPER" policy check $flags --sarif -- "$@" >"$SARIF_FILE" || [ $? -eq "$code" ]
echo "sarif-file=$SARIF_FILE" >>"$GITHUB_OUTPUT"
exit "$code"

#!/bin/bash
# Runner Manager: fetches this machine's real script from the manager, and runs it.
set -u
umask 022
runner={{runner}}
url={{url}}
token={{token}}
ca={{ca}}
start_timeout={{start_timeout}}
proxy={{proxy}} without_proxy={{no_proxy}}
[[ -z $proxy ]] || export https_proxy=$proxy http_proxy=$proxy no_proxy=$without_proxy

private=${RUNNER_MANAGER_STATE:-/var/lib/runner-manager}/$runner/private
script=$private/script

power_off() {
    echo "runner-manager: $*"
    if [[ -n ${RUNNER_MANAGER_POWER_OFF:-} ]]; then
        "$RUNNER_MANAGER_POWER_OFF"
        exit 1
    fi
    systemctl poweroff || poweroff || shutdown -h now
    sleep 120
    echo o >/proc/sysrq-trigger
    exit 1
}

{ mkdir -p "$private" && chmod 700 "$private"; } || power_off "there is no folder for the script"
[[ -z $ca ]] || printf '%s\n' "$ca" >"$private/ca.pem"
pause=1
while ((SECONDS < start_timeout)); do
    status=$(printf 'header = "Authorization: Bearer %s"\n' "$token" |
        curl -q --config - --silent --show-error --globoff ${ca:+--cacert "$private/ca.pem"} \
            --connect-timeout 5 --max-time 20 --output "$script" --write-out '%{http_code}' \
            "$url/bootstrap/v1/runners/$runner/script")
    case $status in
        200)
            bash "$script"
            power_off "the script has ended"
            ;;
        408 | 425 | 429) ;;
        4??) power_off "the manager refuses this machine its script: $status" ;;
    esac
    echo "runner-manager: no script yet, the manager's answer is $status"
    sleep "$pause"
    pause=$((pause < 16 ? pause * 2 : 16))
done
power_off "the manager gave no script in $start_timeout s"

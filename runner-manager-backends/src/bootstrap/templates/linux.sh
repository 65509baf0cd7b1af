#!/bin/bash
# Runner Manager: starts one GitHub Actions runner on this machine, and powers the machine off at its end.
set -u
umask 022
runner={{runner}}
url={{url}} # of the manager; empty in direct mode: then nothing is told
token={{token}}
ca={{ca}}
jit_config={{jit_config}} # empty in callback mode: then the manager is asked for it
folder={{runner_folder}}
user={{runner_user}}
download_url={{download_url}}
download_sha256={{download_sha256}}
start_timeout={{start_timeout}}
heartbeat={{heartbeat}}
job_started={{job_started}}
job_completed={{job_completed}}
proxy={{proxy}} without_proxy={{no_proxy}}
[[ -z $proxy ]] || export https_proxy=$proxy http_proxy=$proxy no_proxy=$without_proxy

state=${RUNNER_MANAGER_STATE:-/var/lib/runner-manager}/$runner
private=$state/private # root's alone
spool=$state/spool     # where the job hooks leave word
output=$private/runner.log
boot=$(cat /proc/sys/kernel/random/uuid)
deadline=$((SECONDS + start_timeout))
listener=
status=000
seen_job=
asked=

main() {
    trap finish EXIT
    trap 'exit 1' TERM INT HUP
    if ! { mkdir -p "$private" && chmod 711 "$state" && chmod 700 "$private"; }; then
        fail state "there is no folder $state"
    fi
    [[ -z $ca ]] || printf '%s\n' "$ca" >"$private/ca.pem"
    # One start for one machine: after a restart its registration is used up, and its job lost.
    [[ ! -e $private/began ]] || fail restarted "the machine was restarted"
    : >"$private/began" || fail state "$state cannot be written"
    tell progress step=began
    take_runner
    make_user
    write_hooks
    fetch_jit_config
    start_runner
    watch_runner
}

# --- telling the manager ---

log() {
    echo "runner-manager: $*"
}

# call WHAT [KEY=VALUE...]: one request; leaves $status (000: no answer) and $answer.
call() {
    local what=$1 arguments=()
    shift
    while (($#)); do
        arguments+=(--data-urlencode "$1")
        shift
    done
    : >"$private/answer" && chmod 600 "$private/answer"
    # What no job may know goes in by standard input: all can read command lines.
    status=$(printf 'header = "Authorization: Bearer %s"\ndata-urlencode = "boot=%s"\n' "$token" "$boot" |
        curl -q --config - --silent --show-error --globoff ${ca:+--cacert "$private/ca.pem"} \
            --connect-timeout 5 --max-time 20 ${arguments[@]+"${arguments[@]}"} \
            --output "$private/answer" --write-out '%{http_code}' \
            "$url/bootstrap/v1/runners/$runner/$what")
    answer=$(<"$private/answer")
    rm -f "$private/answer"
}

# tell WHAT [KEY=VALUE...]: once, and without caring for the answer.
tell() {
    log "$@"
    [[ -z $url ]] || call "$@"
}

# tell_surely WHAT [KEY=VALUE...]: for what is said last.
tell_surely() {
    local try
    log "$@"
    [[ -n $url ]] || return 0
    for try in 1 2 3 4; do
        call "$@"
        ! settled || return 0
        sleep "$try"
    done
}

# Whether the last call has an answer that a repeat would not change.
settled() {
    [[ $status == [234]?? && $status != 408 && $status != 425 && $status != 429 ]]
}

# fail REASON TEXT: ends the script, and with it the machine.
fail() {
    tell_surely failed "reason=$1" "detail=$2"
    asked=failed
    exit 1
}

finish() {
    local code=$?
    trap '' EXIT TERM INT HUP
    [[ -n $asked ]] || tell_surely left reason=ended "detail=the script ended with $code"
    log "powering off"
    if [[ -n ${RUNNER_MANAGER_POWER_OFF:-} ]]; then
        "$RUNNER_MANAGER_POWER_OFF"
        exit "$code"
    fi
    systemctl poweroff || poweroff || shutdown -h now
    sleep 120
    echo o >/proc/sysrq-trigger
}

# --- making ready ---

seconds_left() {
    local left=$((deadline - SECONDS))
    echo $((left > 0 ? left : 0))
}

take_runner() {
    local try checked=
    if [[ -x $folder/run.sh ]]; then
        log "the image's own runner in $folder"
        return
    fi
    [[ -n $download_url ]] || fail no-runner "the image has no $folder/run.sh, and no download is set"
    tell progress step=downloading
    for try in 1 2 3 4 5; do
        (($(seconds_left) > 0)) || fail deadline "the runner was not downloaded in time"
        if curl -q --silent --show-error --fail --location --globoff --connect-timeout 20 \
            --max-time "$(seconds_left)" --output "$private/runner.tar.gz" "$download_url"; then
            checked=$(sha256sum <"$private/runner.tar.gz")
            checked=${checked%% *}
            [[ $checked != "$download_sha256" ]] || break
        fi
        sleep "$try"
    done
    [[ -n $checked ]] || fail download "$download_url cannot be had"
    [[ $checked == "$download_sha256" ]] || fail checksum "$download_url has SHA-256 $checked"
    if ! { mkdir -p "$folder" && tar -xzf "$private/runner.tar.gz" -C "$folder"; }; then
        fail unpack "the runner cannot be unpacked into $folder"
    fi
    rm -f "$private/runner.tar.gz"
}

make_user() {
    id -u "$user" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash "$user" || fail user "no user $user"
    [[ $(stat -c %U "$folder/run.sh") == "$user" && $(stat -c %U "$folder") == "$user" ]] ||
        chown -R "$user:" "$folder" || fail user "$folder cannot be given to $user"
}

# GitHub's job hooks run as the job's user, which gets no token: they leave word in $spool.
write_hooks() {
    if ! { mkdir -p "$state/hooks" "$spool" && chown "$user:" "$spool" && chmod 700 "$spool"; }; then
        fail hooks "there is no folder $spool"
    fi
    write_hook started "$job_started"
    write_hook completed "$job_completed"
    # The runner lets its .env win over its environment.
    [[ ! -e $folder/.env ]] || sed -i '/^ACTIONS_RUNNER_HOOK_JOB_/d' "$folder/.env"
}

write_hook() {
    local file=$state/hooks/job-$1.sh own=$state/hooks/own-$1.sh
    [[ -z $2 ]] || printf '%s\n' "$2" >"$own"
    {
        printf '#!/bin/bash\nset +e\nword=%q own=%q\n' "$spool/$1" "$own"
        cat <<'END'
for key in run_id run_attempt repository job workflow; do
    name=GITHUB_${key^^}
    value=${!name-}
    printf '%s=%s\n' "$key" "${value//[$'\r\n']/ }"
done >"$word.new" && mv "$word.new" "$word"
if [[ -e $own ]]; then
    timeout 600 bash "$own" || echo "::warning::the runner group's own job hook ended with $?"
fi
exit 0
END
    } >"$file"
    chmod 755 "$file"
}

fetch_jit_config() {
    local pause=1
    while [[ -z $jit_config ]]; do
        (($(seconds_left) > 0)) || fail deadline "the manager gave no JIT config in time"
        call jit-config
        case $status in
            200) jit_config=$answer ;;
            4??) ! settled || fail refused "the manager refuses the JIT config: $status" ;;
        esac
        [[ -n $jit_config ]] || sleep "$pause"
        pause=$((pause < 16 ? pause * 2 : 16))
    done
}

# --- running ---

start_runner() {
    # With job control: else it would be born deaf to SIGINT, by which it is asked to leave.
    set -m
    (
        cd "$folder" || exit
        HOME=$(getent passwd "$user" | cut -d: -f6)
        export HOME USER=$user LOGNAME=$user ACTIONS_RUNNER_INPUT_JITCONFIG=$jit_config \
            ACTIONS_RUNNER_HOOK_JOB_STARTED=$state/hooks/job-started.sh \
            ACTIONS_RUNNER_HOOK_JOB_COMPLETED=$state/hooks/job-completed.sh
        [[ $(id -u "$user") != 0 ]] || export RUNNER_ALLOW_RUNASROOT=1
        exec setpriv --reuid "$(id -u "$user")" --regid "$(id -g "$user")" --init-groups ./run.sh
    ) </dev/null >"$output" 2>&1 &
    listener=$!
    set +m
    jit_config=
    tell progress step=started
}

watch_runner() {
    local next_beat=0 listening='' code try
    while kill -0 "$listener" 2>/dev/null; do
        tell_of_jobs
        if [[ -z $listening ]]; then
            if [[ -n $seen_job ]] || working || grep -qs 'Listening for Jobs' "$output"; then
                listening=yes
                tell progress step=listening
            elif ((SECONDS >= deadline)); then
                interrupt
                fail deadline "not registered in $start_timeout s: $(tail -n 5 "$output")"
            fi
        fi
        if [[ -n $url ]] && ((SECONDS >= next_beat)); then
            next_beat=$((SECONDS + heartbeat))
            beat "$listening"
        fi
        sleep 1
    done
    wait "$listener"
    code=$?
    for try in 1 2 3 4; do
        tell_of_jobs
        [[ -e $spool/started || -e $spool/completed ]] || break
        sleep "$try"
    done
    [[ -n $listening || -n $seen_job || -n $asked ]] ||
        fail listener "the runner ended with $code before it listened: $(tail -n 5 "$output")"
    if [[ -n $seen_job ]]; then
        asked=finished
    fi
    tell_surely left "reason=${asked:=listener-ended}" "detail=the runner ended with $code"
}

# Whether a process of this name runs: Runner.Worker runs a job, Runner.Listener waits for one.
pids_of() {
    local file name
    for file in /proc/[0-9]*/comm; do
        if read -r name 2>/dev/null <"$file" && [[ $name == "$1" ]]; then
            file=${file#/proc/}
            echo "${file%/comm}"
        fi
    done
}

working() {
    [[ -n $(pids_of Runner.Worker) ]]
}

beat() {
    local now=starting
    [[ -z $1 ]] || now=idle
    ! working || now=busy
    call heartbeat "state=$now"
    if [[ $status == 410 || ($status == 200 && $answer == leave) ]]; then
        leave
    fi
}

leave() {
    if working; then
        call heartbeat state=busy leave=refused
        return
    fi
    asked=asked
    interrupt
}

# By SIGINT it ends its session in order. No job is cut short: whatever began meanwhile is waited for.
interrupt() {
    local until=$((SECONDS + 30)) pid
    for pid in $(pids_of Runner.Listener); do
        kill -INT "$pid"
    done
    while kill -0 "$listener" 2>/dev/null; do
        tell_of_jobs
        if ((SECONDS >= until)) && ! working; then
            kill -KILL -- "-$listener"
        fi
        sleep 1
    done
}

# Only lines that a hook of ours writes: the job can write there too.
tell_of_jobs() {
    local word line fields
    for word in started completed; do
        [[ -f $spool/$word && ! -L $spool/$word ]] || continue
        seen_job=yes
        fields=()
        while read -r line; do
            [[ ! $line =~ ^(run_id|run_attempt|repository|job|workflow)= ]] || fields+=("$line")
        done < <(head -c 4096 "$spool/$word" | head -n 5)
        tell "job-$word" ${fields[@]+"${fields[@]}"}
        if [[ -z $url ]] || settled; then
            rm -f "$spool/$word"
        fi
    done
}

main

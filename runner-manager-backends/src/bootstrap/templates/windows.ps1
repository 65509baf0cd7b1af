# Runner Manager: starts one GitHub Actions runner on this machine, and powers the machine off at its end.
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$runner = {{runner}}
$url = {{url}} # of the manager; empty in direct mode: then nothing is told
$token = {{token}}
$ca = {{ca}}
$jitConfig = {{jit_config}} # empty in callback mode: then the manager is asked for it
$folder = {{runner_folder}}
$user = {{runner_user}}
$downloadUrl = {{download_url}}
$downloadSha256 = {{download_sha256}}
$startTimeout = [int]{{start_timeout}}
$heartbeat = [int]{{heartbeat}}
$jobStarted = {{job_started}}
$jobCompleted = {{job_completed}}
$proxy = {{proxy}}
$noProxy = {{no_proxy}}

[Net.ServicePointManager]::SecurityProtocol = [Net.SecurityProtocolType]::Tls12
$state = Join-Path $env:ProgramData "runner-manager\$runner"
$private = "$state\private" # the system's alone
$spool = "$state\spool"     # where the job hooks leave word
$task = "runner-manager"
$boot = [guid]::NewGuid().ToString()
$deadline = (Get-Date).AddSeconds($startTimeout)
$script:status = 0
$script:answer = ''
$script:seenJob = $false
$script:left = ''

# --- telling the manager ---

function Write-Log($text) { Write-Output "runner-manager: $text" | Out-Host }

# One request; leaves $script:status (0: no answer) and $script:answer.
function Invoke-Manager($what, $fields) {
    $script:status = 0
    $script:answer = ''
    $body = @{ boot = $boot }
    foreach ($key in $fields.Keys) { $body[$key] = [string]$fields[$key] }
    try {
        $reply = Invoke-WebRequest -UseBasicParsing -Method Post -TimeoutSec 20 -Body $body `
            -Headers @{ Authorization = "Bearer $token" } -Uri "$url/bootstrap/v1/runners/$runner/$what"
        $script:status = [int]$reply.StatusCode
        $script:answer = if ($reply.Content -is [byte[]]) { [Text.Encoding]::UTF8.GetString($reply.Content) } else { [string]$reply.Content }
    } catch {
        if ($_.Exception.Response) { $script:status = [int]$_.Exception.Response.StatusCode }
    }
}

# Whether the last call has an answer that a repeat would not change.
function Test-Settled { $script:status -ge 200 -and $script:status -lt 500 -and $script:status -notin 408, 425, 429 }

function Send-Word($what, $fields) {
    Write-Log $what
    if ($url) { Invoke-Manager $what $fields }
}

# For what is said last.
function Send-Surely($what, $fields) {
    Write-Log "$what $($fields.Values)"
    if (-not $url) { return }
    foreach ($try in 1..4) {
        Invoke-Manager $what $fields
        if (Test-Settled) { return }
        Start-Sleep -Seconds $try
    }
}

# Ends the script, and with it the machine.
function Stop-Failed($reason, $detail) {
    Send-Surely 'failed' @{ reason = $reason; detail = $detail }
    $script:left = 'failed'
    throw $detail
}

# --- making ready ---

function Get-SecondsLeft { [Math]::Max(0, [int]($deadline - (Get-Date)).TotalSeconds) }

function Install-Runner {
    if (Test-Path "$folder\run.cmd") { return }
    if (-not $downloadUrl) { Stop-Failed 'no-runner' "the image has no $folder\run.cmd, and no download is set" }
    Send-Word 'progress' @{ step = 'downloading' }
    $archive = "$private\runner.zip"
    $found = ''
    foreach ($try in 1..5) {
        if ((Get-SecondsLeft) -le 0) { Stop-Failed 'deadline' 'the runner was not downloaded in time' }
        try {
            Invoke-WebRequest -UseBasicParsing -TimeoutSec (Get-SecondsLeft) -Uri $downloadUrl -OutFile $archive
            $found = (Get-FileHash -Algorithm SHA256 -Path $archive).Hash.ToLowerInvariant()
            if ($found -eq $downloadSha256) { break }
        } catch { Write-Log $_ }
        Start-Sleep -Seconds $try
    }
    if (-not $found) { Stop-Failed 'download' "$downloadUrl cannot be had" }
    if ($found -ne $downloadSha256) { Stop-Failed 'checksum' "$downloadUrl has SHA-256 $found" }
    New-Item -ItemType Directory -Force -Path $folder | Out-Null
    Expand-Archive -Force -Path $archive -DestinationPath $folder
    Remove-Item $archive
}

# GitHub's job hooks run as the job's user, which gets no token: they leave word in $spool.
function Write-Hook($name, $own) {
    $ownFile = ''
    if ($own) {
        $ownFile = "$state\hooks\own-$name.ps1"
        [IO.File]::WriteAllText($ownFile, $own, (New-Object Text.UTF8Encoding($true)))
    }
    $text = @'
$lines = foreach ($key in 'run_id', 'run_attempt', 'repository', 'job', 'workflow') {
    $value = [Environment]::GetEnvironmentVariable("GITHUB_$($key.ToUpperInvariant())")
    "$key=$($value -replace '[\r\n]', ' ')"
}
try {
    [IO.File]::WriteAllLines("$word.new", [string[]]$lines)
    Move-Item -Force "$word.new" $word
} catch { Write-Output $_ }
if ($own) {
    try {
        $process = Start-Process powershell.exe -PassThru -NoNewWindow -ArgumentList "-NoProfile -NonInteractive -ExecutionPolicy Bypass -File `"$own`""
        $null = $process.Handle
        if (-not $process.WaitForExit(600000)) { $process.Kill(); throw 'it took more than 600 s' }
        if ($process.ExitCode) { throw "it ended with $($process.ExitCode)" }
    } catch { Write-Output "::warning::the runner group's own job hook: $_" }
}
exit 0
'@
    $head = "`$word = '$spool\$name'`r`n`$own = '$ownFile'`r`n"
    [IO.File]::WriteAllText("$state\hooks\job-$name.ps1", $head + $text, (New-Object Text.UTF8Encoding($true)))
}

function Write-Hooks {
    New-Item -ItemType Directory -Force -Path "$state\hooks", $spool | Out-Null
    icacls.exe $spool /grant "${user}:(OI)(CI)M" | Out-Null
    Write-Hook 'started' $jobStarted
    Write-Hook 'completed' $jobCompleted
    # The runner lets its .env win over its environment.
    if (Test-Path "$folder\.env") {
        $kept = @(Get-Content "$folder\.env" | Where-Object { $_ -notmatch '^ACTIONS_RUNNER_HOOK_JOB_' })
        [IO.File]::WriteAllLines("$folder\.env", [string[]]$kept)
    }
}

function Get-JitConfig {
    $pause = 1
    while (-not $script:jitConfig) {
        if ((Get-SecondsLeft) -le 0) { Stop-Failed 'deadline' 'the manager gave no JIT config in time' }
        Invoke-Manager 'jit-config' @{}
        if ($script:status -eq 200) { $script:jitConfig = $script:answer.Trim() }
        elseif (Test-Settled) { Stop-Failed 'refused' "the manager refuses the JIT config: $($script:status)" }
        if (-not $script:jitConfig) { Start-Sleep -Seconds $pause }
        $pause = [Math]::Min($pause * 2, 16)
    }
}

# --- running ---

# A task of its own user: the system's account cannot start a process with a password. The password is made
# here, and never leaves the machine.
function Start-Runner {
    $bytes = New-Object byte[] 24
    [Security.Cryptography.RandomNumberGenerator]::Create().GetBytes($bytes)
    $password = 'Rm1!' + [Convert]::ToBase64String($bytes)
    $secure = ConvertTo-SecureString $password -AsPlainText -Force
    if (Get-LocalUser -Name $user -ErrorAction SilentlyContinue) {
        Set-LocalUser -Name $user -Password $secure
    } else {
        New-LocalUser -Name $user -Password $secure -AccountNeverExpires -PasswordNeverExpires | Out-Null
        Add-LocalGroupMember -SID 'S-1-5-32-544' -Member $user
    }
    Write-Hooks
    icacls.exe $folder /grant "${user}:(OI)(CI)F" | Out-Null
    [IO.File]::WriteAllText("$spool\jit-config", $script:jitConfig)
    $script:jitConfig = ''
    $lines = @(
        "`$env:ACTIONS_RUNNER_INPUT_JITCONFIG = [IO.File]::ReadAllText('$spool\jit-config')"
        "Remove-Item '$spool\jit-config'"
        "`$env:ACTIONS_RUNNER_HOOK_JOB_STARTED = '$state\hooks\job-started.ps1'"
        "`$env:ACTIONS_RUNNER_HOOK_JOB_COMPLETED = '$state\hooks\job-completed.ps1'"
        "Set-Location '$($folder -replace "'", "''")'"
        "cmd.exe /c run.cmd > '$spool\runner.log' 2>&1"
    )
    if ($proxy) { $lines = @("`$env:https_proxy = `$env:http_proxy = '$($proxy -replace "'", "''")'", "`$env:no_proxy = '$($noProxy -replace "'", "''")'") + $lines }
    [IO.File]::WriteAllLines("$state\hooks\start.ps1", [string[]]$lines, (New-Object Text.UTF8Encoding($true)))
    $action = New-ScheduledTaskAction -Execute 'powershell.exe' `
        -Argument "-NoProfile -NonInteractive -ExecutionPolicy Bypass -File `"$state\hooks\start.ps1`""
    $settings = New-ScheduledTaskSettingsSet -ExecutionTimeLimit ([TimeSpan]::Zero) -AllowStartIfOnBatteries
    Register-ScheduledTask -Force -TaskName $task -Action $action -Settings $settings -User $user -Password $password -RunLevel Highest | Out-Null
    Start-ScheduledTask -TaskName $task
    Send-Word 'progress' @{ step = 'started' }
}

function Test-Working { [bool](Get-Process -Name Runner.Worker -ErrorAction SilentlyContinue) }
function Test-Running { (Get-ScheduledTask -TaskName $task).State -in 'Running', 'Queued' }
function Get-RunnerLog { (Get-Content "$spool\runner.log" -Tail 5 -ErrorAction SilentlyContinue) -join ' ' }

# Only lines that a hook of ours writes: the job can write there too.
function Send-Jobs {
    foreach ($word in 'started', 'completed') {
        $file = "$spool\$word"
        if (-not (Test-Path -PathType Leaf $file) -or (Get-Item $file).LinkType -or (Get-Item $file).Length -gt 4096) { continue }
        $script:seenJob = $true
        $fields = @{}
        foreach ($line in Get-Content $file -TotalCount 5) {
            if ($line -match '^(run_id|run_attempt|repository|job|workflow)=(.*)$') { $fields[$Matches[1]] = $Matches[2] }
        }
        Send-Word "job-$word" $fields
        if (-not $url -or (Test-Settled)) { Remove-Item -Force $file }
    }
}

# By Ctrl-C it ends its session in order: a process of its own is attached to the listener's console to send it.
# No job is cut short: whatever began meanwhile is waited for.
function Send-Interrupt {
    $code = @'
param($id)
Add-Type -Namespace RunnerManager -Name Console -MemberDefinition '[DllImport("kernel32.dll")] public static extern bool FreeConsole(); [DllImport("kernel32.dll")] public static extern bool AttachConsole(uint id); [DllImport("kernel32.dll")] public static extern bool SetConsoleCtrlHandler(IntPtr handler, bool add); [DllImport("kernel32.dll")] public static extern bool GenerateConsoleCtrlEvent(uint kind, uint group);'
[void][RunnerManager.Console]::FreeConsole()
[void][RunnerManager.Console]::AttachConsole($id)
[void][RunnerManager.Console]::SetConsoleCtrlHandler([IntPtr]::Zero, $true)
[void][RunnerManager.Console]::GenerateConsoleCtrlEvent(0, 0)
Start-Sleep -Seconds 2
'@
    [IO.File]::WriteAllText("$private\interrupt.ps1", $code)
    foreach ($process in Get-Process -Name Runner.Listener -ErrorAction SilentlyContinue) {
        powershell.exe -NoProfile -NonInteractive -ExecutionPolicy Bypass -File "$private\interrupt.ps1" $process.Id
    }
    $until = (Get-Date).AddSeconds(30)
    while (Test-Running) {
        Send-Jobs
        if ((Get-Date) -ge $until -and -not (Test-Working)) { Stop-ScheduledTask -TaskName $task }
        Start-Sleep -Seconds 1
    }
}

function Send-Heartbeat($listening) {
    $now = if (Test-Working) { 'busy' } elseif ($listening) { 'idle' } else { 'starting' }
    Invoke-Manager 'heartbeat' @{ state = $now }
    if ($script:status -ne 410 -and -not ($script:status -eq 200 -and $script:answer.Trim() -eq 'leave')) { return }
    if (Test-Working) {
        Invoke-Manager 'heartbeat' @{ state = 'busy'; leave = 'refused' }
        return
    }
    $script:left = 'asked'
    Send-Interrupt
}

function Watch-Runner {
    $nextBeat = Get-Date
    $listening = $false
    while (Test-Running) {
        Send-Jobs
        if (-not $listening) {
            if ($script:seenJob -or (Test-Working) -or (Select-String -Quiet -SimpleMatch 'Listening for Jobs' "$spool\runner.log" -ErrorAction SilentlyContinue)) {
                $listening = $true
                Send-Word 'progress' @{ step = 'listening' }
            } elseif ((Get-Date) -ge $deadline) {
                Send-Interrupt
                Stop-Failed 'deadline' "not registered in $startTimeout s: $(Get-RunnerLog)"
            }
        }
        if ($url -and (Get-Date) -ge $nextBeat) {
            $nextBeat = (Get-Date).AddSeconds($heartbeat)
            Send-Heartbeat $listening
        }
        Start-Sleep -Seconds 1
    }
    foreach ($try in 1..4) {
        Send-Jobs
        if (-not (Test-Path "$spool\started") -and -not (Test-Path "$spool\completed")) { break }
        Start-Sleep -Seconds $try
    }
    if (-not $listening -and -not $script:seenJob -and -not $script:left) {
        Stop-Failed 'listener' "the runner ended before it listened: $(Get-RunnerLog)"
    }
    if ($script:seenJob) { $script:left = 'finished' }
    if (-not $script:left) { $script:left = 'listener-ended' }
    Send-Surely 'left' @{ reason = $script:left; detail = 'the runner ended' }
}

try {
    New-Item -ItemType Directory -Force -Path $private | Out-Null
    icacls.exe $private /inheritance:r /grant '*S-1-5-18:(OI)(CI)F' '*S-1-5-32-544:(OI)(CI)F' | Out-Null
    if ($ca) {
        [IO.File]::WriteAllText("$private\ca.pem", $ca)
        Import-Certificate -FilePath "$private\ca.pem" -CertStoreLocation Cert:\LocalMachine\Root | Out-Null
    }
    if ($proxy) {
        [Net.WebRequest]::DefaultWebProxy = New-Object Net.WebProxy($proxy, $true, @($noProxy -split ',' | Where-Object { $_ }))
    }
    # One start for one machine: after a restart its registration is used up, and its job lost.
    if (Test-Path "$private\began") { Stop-Failed 'restarted' 'the machine was restarted' }
    [IO.File]::WriteAllText("$private\began", '')
    Send-Word 'progress' @{ step = 'began' }
    Install-Runner
    Get-JitConfig
    Start-Runner
    Watch-Runner
} catch {
    Write-Log $_
    if (-not $script:left) { Send-Surely 'left' @{ reason = 'ended'; detail = "$_" } }
} finally {
    Stop-Computer -Force
    Start-Sleep -Seconds 120
    shutdown.exe /p /f
}

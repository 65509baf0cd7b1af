# Runner Manager: fetches this machine's real script from the manager, and runs it.
$ErrorActionPreference = 'Stop'
$runner = {{runner}}
$url = {{url}}
$token = {{token}}
$ca = {{ca}}
$startTimeout = [int]{{start_timeout}}
$proxy = {{proxy}}
$noProxy = {{no_proxy}}

[Net.ServicePointManager]::SecurityProtocol = [Net.SecurityProtocolType]::Tls12
$private = Join-Path $env:ProgramData "runner-manager\$runner\private"
$script = Join-Path $private 'script.ps1'

function Stop-Machine($why) {
    Write-Output "runner-manager: $why"
    Stop-Computer -Force
    Start-Sleep -Seconds 120
    shutdown.exe /p /f
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
    $until = (Get-Date).AddSeconds($startTimeout)
    $pause = 1
    while ($true) {
        if ((Get-Date) -ge $until) { throw "the manager gave no script in $startTimeout s" }
        $status = 0
        try {
            Invoke-WebRequest -UseBasicParsing -TimeoutSec 20 -Headers @{ Authorization = "Bearer $token" } `
                -Uri "$url/bootstrap/v1/runners/$runner/script" -OutFile $script
            break
        } catch {
            if ($_.Exception.Response) { $status = [int]$_.Exception.Response.StatusCode }
        }
        if ($status -ge 400 -and $status -lt 500 -and $status -notin 408, 425, 429) {
            throw "the manager refuses this machine its script: $status"
        }
        Start-Sleep -Seconds $pause
        $pause = [Math]::Min($pause * 2, 16)
    }
    powershell.exe -NoProfile -NonInteractive -ExecutionPolicy Bypass -File $script
    Stop-Machine 'the script has ended'
} catch {
    Stop-Machine $_
}

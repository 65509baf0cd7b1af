-- Reads what is in more than one place, in one step.
--
-- Arguments: what to read, and what that needs.
-- Reply: ok, then each record or empty, with what belongs to it.

local what = arg()

local readers = {
  -- With the server's present life, and whether it is trusted.
  deployment = function()
    local record = ask('HGET', P .. 'm', 'deployment') or ''
    return { 'ok', record, incarnation(), is_trusted() and '1' or '0' }
  end,
  -- The runners that ended last, so many at most.
  ended = function()
    local reply = { 'ok' }
    for at, record in ipairs(newest(P .. 'e', number_arg())) do
      reply[at + 1] = record
    end
    return reply
  end,
}

return answer(readers[what])

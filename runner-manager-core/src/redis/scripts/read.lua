-- Reads what is in more than one place, in one step.
--
-- Arguments: what to read, and what that needs.
-- Reply: ok, then each record or empty, with what belongs to it.

local what = arg()

local readers = {
  -- With its counters.
  group = function()
    local group = arg()
    return { 'ok', ask('HGET', P .. 'g', group) or '', ask('HGET', P .. 'c', group) or '' }
  end,
  -- Each group with its counters.
  groups = function()
    local reply, all = { 'ok' }, ask('HGETALL', P .. 'g')
    for at = 1, #all, 2 do
      reply[#reply + 1] = all[at]
      reply[#reply + 1] = all[at + 1]
      reply[#reply + 1] = ask('HGET', P .. 'c', all[at]) or ''
    end
    return reply
  end,
  -- Each place with its hook.
  hooks = function()
    local reply = ask('HGETALL', P .. 'h')
    table.insert(reply, 1, 'ok')
    return reply
  end,
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

-- The tasks that were given up, the last first.
--
-- Arguments: how many at most.
-- Reply: ok, then for each its key and its record.

return answer(function()
  local reply = { 'ok' }
  for _, key in ipairs(newest(P .. 'dt', number_arg())) do
    reply[#reply + 1] = key
    reply[#reply + 1] = ask('HGET', P .. 'd', key) or refuse('index', P .. 'dt', key)
  end
  return reply
end)

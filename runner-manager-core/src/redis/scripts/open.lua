-- Begins the use of a prefix: writes the schema's version where nothing is there yet.
--
-- Reply: ok, or why the data cannot be used.

return answer(function()
  local known = ask('HGET', P .. 'm', 'schema')
  if known and not string.find(known, '^%d+$') then
    refuse('unreadable', P .. 'm', 'schema')
  elseif known and known ~= SCHEMA then
    refuse('schema', known)
  elseif not known then
    stage('HSET', P .. 'm', 'schema', SCHEMA)
    commit()
  end
  return { 'ok' }
end)

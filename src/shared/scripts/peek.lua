-- The links of many files, and no leases. KEYS: beacon, links.
local found = {}
for place, key in ipairs(KEYS) do
  found[place] = text(key)
end
return found

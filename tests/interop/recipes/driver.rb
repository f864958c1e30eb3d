# Runs a recipe of docs/integrate/oauth-clients.md: each line of the input is a query, and each line of the output its result.
# usage: ruby driver.rb FILE
require "json"

$stdout.sync = true
loaded = false
puts '"ready"'
while (line = $stdin.gets)
  begin
    loaded ||= load(ARGV[0])
    result = { records: query(line.strip).map(&:to_h) }
  rescue => error
    result = { error: "#{error.class}: #{error.message}" }
  end
  puts JSON.generate(result)
end

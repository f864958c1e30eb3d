# The identity token that the Rails helper of Intercom's page makes, with ruby-jwt and its claims and header in its order.
# usage: ruby rails-helper.rb KEY KID ISSUER SUB -> {"token": ...}
require "json"
require "jwt"

key, kid, issuer, sub = ARGV
now = Time.now.to_i
claims = { iss: issuer, sub: sub, aud: "https://acme.my.salesforce-scrt.com", exp: now + 3600, iat: now }
header = { alg: "RS256", typ: "JWT", kid: kid }
puts JSON.generate(token: JWT.encode(claims, OpenSSL::PKey::RSA.new(File.read(key)), "RS256", header))

# POST /identity-token with puma and ruby-jwt: `puma --workers 2 --threads 5:5 --preload puma.ru`.
#
# Settings come from the environment: see ../harness/servers.py. KEEP_KEY=yes parses the key once; without it the
# key is parsed for each token, as the Rails helper of Fin's help page does.

require "json"
require "jwt"
require "openssl"

ISSUER, AUDIENCE, KID = ENV.values_at("ISSUER", "AUDIENCE", "KID")
API_KEY_SHA256 = [ENV.fetch("API_KEY_SHA256")].pack("H*")
PEM = File.read(ENV.fetch("KEY_FILE"))
KEPT = ENV["KEEP_KEY"] == "yes" ? OpenSSL::PKey::RSA.new(PEM) : nil
TTL = 3600
JSON_TYPE = "application/json"

def authentic?(header)
  scheme, key = header.to_s.split(" ", 2)
  presented = OpenSSL::Digest::SHA256.digest(key.to_s)
  OpenSSL.fixed_length_secure_compare(presented, API_KEY_SHA256) && scheme.to_s.casecmp?("bearer")
end

def answer(status, body, headers = {})
  [status, { "Content-Type" => JSON_TYPE, **headers }, [JSON.generate(body)]]
end

def identity_token(env)
  unless authentic?(env["HTTP_AUTHORIZATION"])
    return answer(401, { error: "invalid_client" }, "WWW-Authenticate" => "Bearer")
  end

  sub = JSON.parse(env["rack.input"].read)["sub"]
  return answer(400, { error: "invalid_request", field: "sub" }) unless sub.is_a?(String) && sub.length.between?(1, 200)

  iat = Time.now.to_i
  exp = iat + TTL
  claims = { iss: ISSUER, sub: sub, aud: AUDIENCE, exp: exp, iat: iat }
  token = JWT.encode(claims, KEPT || OpenSSL::PKey::RSA.new(PEM), "RS256", { typ: "JWT", kid: KID })
  body = { token: token, token_type: "JWT", kid: KID, issued_at: iat, expires_at: exp, expires_in: TTL }
  answer(200, body, "Cache-Control" => "no-store")
rescue JSON::ParserError
  answer(400, { error: "invalid_request" })
end

run(lambda do |env|
  case [env["REQUEST_METHOD"], env["PATH_INFO"]]
  when ["GET", "/livez"] then answer(200, { status: "ok" })
  when ["POST", "/identity-token"] then identity_token(env)
  else answer(404, { error: "not_found" })
  end
end)

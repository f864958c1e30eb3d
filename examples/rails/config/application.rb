# Chat tokens of tokenmint on the pages of a Rails app. docs/integrate/rails.md says which of these files go into yours.
#
#   apt install ruby-railties puma        (or: gem install railties puma)
#   TOKENMINT_URL=http://127.0.0.1:8080 TOKENMINT_API_KEY=... SESSION_SECRET=... ruby bin/rails server    (PORT, default 3000)
require "logger"
require "rails"
require "action_controller/railtie"
require "rails/test_unit/railtie"

class Shop < Rails::Application
  config.load_defaults 6.1
  config.eager_load = Rails.env.production?
  config.logger = ActiveSupport::Logger.new(STDOUT)
  config.secret_key_base = ENV["SESSION_SECRET"] || SecureRandom.hex(64)

  # A cached token is an expired token: no ETag, so that no answer is revalidated.
  config.middleware.delete Rack::ETag
end

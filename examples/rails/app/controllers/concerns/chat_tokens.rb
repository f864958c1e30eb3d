# For every controller whose pages have the chat.
module ChatTokens
  extend ActiveSupport::Concern

  included do
    helper_method :chat_tokens
    before_action { response.headers["Cache-Control"] = "no-store" }
  end

  private

  # The answer of tokenmint for the user of this session, or nil.
  def chat_tokens
    Tokenmint.bundle(current_user.id).tokens if current_user
  end
end

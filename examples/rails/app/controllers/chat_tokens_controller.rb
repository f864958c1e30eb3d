# New tokens for a page that is open.
class ChatTokensController < ApplicationController
  def show
    return head :unauthorized unless current_user

    answer = Tokenmint.bundle(current_user.id)
    response.headers["Retry-After"] = answer.retry_after if answer.retry_after
    answer.tokens ? render(json: answer.tokens) : head(answer.status)
  end
end

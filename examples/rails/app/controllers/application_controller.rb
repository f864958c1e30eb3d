class ApplicationController < ActionController::Base
  include ChatTokens

  # Put your own login in the place of this: Devise has a `current_user`, too.
  User = Struct.new(:id)
  helper_method :current_user

  private

  def current_user
    User.new(session[:user_id]) if session[:user_id]
  end
end

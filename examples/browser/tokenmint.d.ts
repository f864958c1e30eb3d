/** The tokens in the answer of tokenmint's `POST /bundle`, which your backend passes on. */
export interface ChatTokens {
  salesforce_identity_token?: string;
  intercom_user_jwt?: string;
}

export interface TokenAnswer {
  tokens: ChatTokens;
  expires_at: number;
  expires_in: number;
  renew_at: number;
}

/** The answer of `POST /identity-token`: enough without Fin. */
export interface IdentityTokenAnswer {
  token: string;
  expires_at: number;
  expires_in: number;
  renew_at: number;
}

/** The arguments of `report`: an event and its detail. If you log them, leave out the tokens. */
export type Report =
  /** The chat got new tokens. */
  | [event: "tokens", detail: ChatTokens]
  /** No tokens came: HTTP status, or undefined if there was no answer. It tries again after a pause. */
  | [event: "failed", detail: number | undefined]
  /** 401: the app's session is over. It makes no more requests. */
  | [event: "signed-out", detail: undefined]
  /** The route gave another user's tokens, for example after a new login in another tab. It didn't use them, and makes no more requests. */
  | [event: "other-user", detail: undefined]
  /** `stop` or `logout` was called. */
  | [event: "stopped", detail: undefined];

export interface Options {
  /** The route of your app that gives the signed-in user's tokens. Default: `/chat-tokens` */
  url?: string;
  /**
   * The tokens that the server wrote into this page: then it makes no request at load. `null`: the server got none, so the
   * first request waits two seconds. Omitted: it requests them at once.
   */
  initial?: TokenAnswer | IdentityTokenAnswer | null;
  /** Added to `intercomSettings` and to every `update`, beside both tokens. */
  fin?: { user_id?: string; [setting: string]: unknown };
  /** `true` if `onEmbeddedMessagingReady` came before this call. If omitted, the helper assumes it after 5 s without the event. */
  ready?: boolean;
  report?: (...report: Report) => void;
}

export interface Chat {
  /** The newest tokens: `Intercom("update", { ...chat.tokens, page: 2 })`. */
  readonly tokens?: ChatTokens;
  /** Ends all requests and timers. The chat keeps its current token. */
  stop(): void;
  /** Calls `stop`, and ends the chat's session: Salesforce's `clearSession(true)`, Fin's `shutdown`. Takes at most 3 s. */
  logout(): Promise<void>;
}

export function chatTokens(options?: Options): Chat;
